"""A recommender and a filter of one's own, in a package of one's own."""
