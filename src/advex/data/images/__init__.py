"""Pictures in folders, Parquet and NPZ files, and how they are decoded."""
