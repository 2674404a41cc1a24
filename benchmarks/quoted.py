"""Figures of other programs on OULAD by the same protocols; quoted, not run again.

For grades they had 300 s, two cores and the protected attributes.
"""

#: Grade RMSE and MAE, risk AUC and Brier on 2014B at .25, .50, .75 and over all rows.
QUOTED = {
    "naive": {"rmse": [29.02, 17.98, 24.77, 24.45], "mae": [19.60, 11.49, 9.80, 13.84]},
    "random forest, 300 trees": {
        "rmse": [23.95, 12.36, 6.33, 16.34],
        "mae": [18.22, 8.41, 3.42, 10.34],
        "auc": [0.8074, 0.8850, 0.9356, 0.8804],
        "brier": [0.1770, 0.1386, 0.0973, 0.1394],
    },
    "LightGBM, fixed parameters": {
        "rmse": [22.50, 12.23, 6.49, 15.58],
        "mae": [17.28, 8.38, 3.85, 10.13],
        "auc": [0.7976, 0.8857, 0.9333, 0.8766],
        "brier": [0.1892, 0.1413, 0.1041, 0.1467],
    },
    "FLAML 2.7, 300 s": {
        "rmse": [21.90, 12.56, 6.55, 15.37],
        "mae": [16.32, 8.74, 4.10, 9.98],
        "auc": [0.8040, 0.8839, 0.9325, 0.8764],
        "brier": [0.1788, 0.1415, 0.1025, 0.1426],
    },
    "AutoGluon 1.6, good_quality, 300 s": {
        "rmse": [21.27, 12.37, 6.46, 14.98],
        "mae": [16.60, 8.58, 3.89, 9.96],
        "auc": [0.7926, 0.8722, 0.9210, 0.8646],
        "brier": [0.1963, 0.1600, 0.1248, 0.1619],
    },
}

#: MAE and RMSE of remaining scores on 2014B over all, at .25, .50, .75, and of the next assignment.
QUOTED_FORECASTS = {
    "last score": {
        "mae": [21.23, 24.79, 18.19, 17.69, 19.33],
        "rmse": [33.44, 36.9, 30.12, 29.63, 31.75],
    },
    "mean so far": {
        "mae": [22.3, 24.53, 20.85, 19.38, 19.22],
        "rmse": [31.56, 34.32, 29.93, 27.01, 28.49],
    },
    "AutoARIMA": {
        "mae": [21.51, 24.3, 20.09, 17.21, 18.45],
        "rmse": [31.79, 34.25, 30.54, 27.49, 29.24],
    },
    "AutoTheta": {
        "mae": [22.04, 24.53, 20.14, 19.19, 18.77],
        "rmse": [32.21, 34.32, 30.77, 29.2, 29.13],
    },
    "AutoETS": {
        "mae": [22.18, 24.53, 20.65, 19.07, 19.0],
        "rmse": [31.49, 34.32, 29.84, 26.79, 28.35],
    },
    "median of ARIMA, Theta, ETS, mean": {
        "mae": [21.92, 24.53, 20.44, 18.16, 18.72],
        "rmse": [31.35, 34.32, 29.72, 26.19, 28.23],
    },
    "one global LightGBM": {
        "mae": [20.64, 24.94, 17.67, 15.26, 17.94],
        "rmse": [29.2, 33.12, 26.29, 23.12, 26.38],
    },
}
