mod numbers;
mod snowflake;
