//go:build !linux

package doctor

// holderOf cannot tell.
func holderOf(string) holder {
	return holder{untold: "on this system, the doctor cannot find out which program has it"}
}
