"""Where quantized weights start from: roundings and equalisations by what the layers read, each a pure function."""
