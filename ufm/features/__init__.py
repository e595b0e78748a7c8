"""From labelled features to numbers: statistics, SNR, least squares, measures."""
