//! Counters, gauges and histograms with closed-enum labels.
