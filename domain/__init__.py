"""Types and rules that know no storage and no network: ids, permissions, errors, values."""
