//! Every case there is, where there are few enough: nothing here is sampled.

mod config;
mod config_model;
mod counts;
mod edges;
