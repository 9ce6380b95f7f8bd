from mdrepro.core.library_warnings import leave_out_grammars

leave_out_grammars()
