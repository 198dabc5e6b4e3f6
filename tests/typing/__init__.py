"""What type checkers are promised. mypy and pyright read these files; nothing runs them.

``assert_type`` states what is inferred. A line that is wrong on purpose carries an ignore
comment for each checker, with the error that it has to report there. Both complain about
an unused ignore comment, so an error that is no longer reported fails ``make lint`` like
any other.
"""
