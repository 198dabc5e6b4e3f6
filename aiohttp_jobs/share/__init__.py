"""The processes of one application on one machine find each other, and ask each other."""
