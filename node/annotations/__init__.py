"""What readers say becomes examples to learn from: images, labels, masks, in the formats that training tools read."""
