"""Facts: models, devices and storage formats that instances may name.

Every fact carries its source and how far it can be trusted. The data are JSON files
inside the package, read when first asked for and kept.
"""

from __future__ import annotations

from ._table import Confidence as Confidence
from .devices import DeviceFacts as DeviceFacts
from .devices import device as device
from .devices import devices as devices
from .formats import FormatFacts as FormatFacts
from .formats import format_named as format_named
from .formats import formats as formats
from .models import ModelFacts as ModelFacts
from .models import model as model
from .models import models as models
