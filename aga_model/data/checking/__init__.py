"""What is wrong with a data set on disk, found before it is used."""
