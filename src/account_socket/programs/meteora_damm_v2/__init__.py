"""Meteora DAMM v2 (cp-amm): its account layouts are the IDL beside this file."""
