package main

import (
	"slices"
	"strings"
)

// given lists the flags that are set, sorted.
func given(flags map[string]bool) []string {
	var set []string
	for name, is := range flags {
		if is {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	return set
}

// nonBlank returns the values of a repeatable setting without spaces around them and without empty
// ones: a variable that is set to "" means no values, not one empty value.
func nonBlank(list []string) []string {
	var kept []string
	for _, v := range list {
		if v = strings.TrimSpace(v); v != "" {
			kept = append(kept, v)
		}
	}
	return kept
}

// checkPair refuses a certificate without its key, and a key without its certificate.
func checkPair(certFlag, cert, keyFlag, key string) error {
	switch {
	case cert != "" && key == "":
		return wrong("add "+keyFlag+" with its key", "%s %s: a certificate needs its key", certFlag, cert)
	case cert == "" && key != "":
		return wrong("add "+certFlag+" with its certificate", "%s %s: a key needs its certificate", keyFlag, key)
	}
	return nil
}
