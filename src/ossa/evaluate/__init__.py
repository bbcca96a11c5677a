"""From detections to metrics, their intervals, and a page on them."""
