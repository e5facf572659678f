"""Networks that read an image with recurrent cells, row by row and column by column."""
