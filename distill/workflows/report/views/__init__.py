"""What ``report.html`` shows of the models of a report, one file a view: pure functions over what was measured."""
