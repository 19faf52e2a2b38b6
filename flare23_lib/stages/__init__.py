"""What each stage of the workflow does: the library's parts, tied together by the store and the records.

Every stage works case by case, skips what lies whole in the store, and writes its record last.
"""
