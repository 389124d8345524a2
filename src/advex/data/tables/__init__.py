"""Tables: CSV files, what their columns are, and how rows become inputs."""
