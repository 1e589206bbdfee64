"""The numbers of a set of maps: evaluator, record, baselines."""
