"""From a folder of images to a bundle with a model card; never imported by the node."""
