"""From networks to a bundle: trace once, unroll at graph level, verify."""
