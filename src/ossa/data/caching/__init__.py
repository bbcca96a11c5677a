"""What is kept in the user's cache folder: indexes and resized images, opened by memory map."""
