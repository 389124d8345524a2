"""People in the loop: what they are asked about, and what training makes of their answers."""
