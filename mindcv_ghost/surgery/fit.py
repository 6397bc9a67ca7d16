def fit_ghost_modules(*a):
    raise NotImplementedError


load_fit = recalibrate_batch_norm = fit_ghost_modules
