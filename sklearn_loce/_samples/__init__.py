"""Read and check the images and masks of a table of samples."""
