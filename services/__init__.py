"""The product's rules, one file a workflow. Services open the transactions."""
