"""The forecasters, one module each behind `contract.Forecaster`."""

from grade_ml.forecasting.contract import Forecaster, Method
from grade_ml.forecasting.forecasters.boosted import Boosted
from grade_ml.forecasting.forecasters.local import Local
from grade_ml.forecasting.forecasters.naive import Last, Mean
from grade_ml.forecasting.forecasters.recurrent import GRU, LSTM
from grade_ml.forecasting.forecasters.seasonal import Seasonal
from grade_ml.forecasting.forecasters.slot import SlotMean

#: All of them, from the simplest to the dearest.
FORECASTERS: dict[Method, type[Forecaster]] = {
    one.method: one for one in (Last, Mean, SlotMean, Local, Seasonal, LSTM, GRU, Boosted)
}
