"""What a report shows of each kind of result file: charts, tables, and the whole in one sentence."""
