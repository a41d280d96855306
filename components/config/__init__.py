"""What is computed: parameters and catalogue, typed and checked, without torch."""
