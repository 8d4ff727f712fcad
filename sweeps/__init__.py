"""Budget sweeps on a Ray cluster: search once, slim for every budget, track the Pareto front."""
