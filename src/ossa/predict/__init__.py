"""Detectors put to use: pictures in, detections, annotated pictures and result files out."""
