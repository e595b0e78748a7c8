"""Measures of pretrained networks that others have trained and published."""
