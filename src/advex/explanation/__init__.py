"""One input explained: pictures, maps and rows, as files and as values."""
