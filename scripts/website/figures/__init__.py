"""What the figures of the methods are drawn with, and the figures."""
