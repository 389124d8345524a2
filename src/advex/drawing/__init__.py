"""What pages and figures are drawn with: numbers in words, axes, colours, pictures. Reads no model."""
