"""Data sets that papers measure on, in the form in which they are published."""
