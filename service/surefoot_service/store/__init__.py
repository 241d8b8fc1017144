"""Where truth lives: tables, and small functions over one database session each."""
