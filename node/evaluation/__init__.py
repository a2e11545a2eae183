"""What a bundle is worth on a set of images with known answers."""
