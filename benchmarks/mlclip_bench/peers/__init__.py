"""The same images through mlclip and through what people would use instead, in turns; the results are ratios."""
