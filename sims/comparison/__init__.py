"""Reading runs, drawing and writing the comparison of trained networks with the exact laws."""
