"""Networks that take one stream's windows to tokens [B, S, D]; one file a network."""
