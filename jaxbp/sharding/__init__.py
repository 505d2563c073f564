"""Gradients on many devices: that they are what one device computes, and what they send each other."""
