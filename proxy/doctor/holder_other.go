//go:build !linux

package doctor

// holderOf cannot tell.
func holderOf(string) holder { return holder{untold: "this system does not tell which program has it"} }
