"""A neutral graph and a text -> what flows through each matrix product, a piece of the graph at a time."""
