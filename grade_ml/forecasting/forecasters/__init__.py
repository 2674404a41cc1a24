"""The forecasters, one module each behind `contract.Forecaster`."""

from grade_ml.forecasting.contract import Forecaster, Method
from grade_ml.forecasting.forecasters.boosted import Boosted
from grade_ml.forecasting.forecasters.local import Local
from grade_ml.forecasting.forecasters.naive import Last, Mean
from grade_ml.forecasting.forecasters.recurrent import GRU, LSTM
from grade_ml.forecasting.forecasters.seasonal import Seasonal
from grade_ml.forecasting.forecasters.slot import SlotMean

#: All of them, from the simplest to the costliest.
FORECASTERS: dict[Method, type[Forecaster]] = {
    forecaster.method: forecaster
    for forecaster in (Last, Mean, SlotMean, Local, Seasonal, LSTM, GRU, Boosted)
}
