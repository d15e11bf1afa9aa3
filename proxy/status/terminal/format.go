package terminal

import (
	"fmt"
	"math"
	"time"
)

// three writes a number of 0 or more with three digits, and its unit.
func three(x float64, unit string) string {
	switch {
	case x < 9.995:
		return fmt.Sprintf("%.2f%s", x, unit)
	case x < 99.95:
		return fmt.Sprintf("%.1f%s", x, unit)
	}
	return fmt.Sprintf("%.0f%s", x, unit)
}

// scaled writes a number with the largest of some units, each a thousand times the one before.
func scaled(x float64, units ...string) string {
	if !(x >= 0) {
		return "-"
	}
	for i, unit := range units {
		switch {
		case x < 999.5 && i == 0 && (unit == "B" || x == math.Trunc(x)):
			return fmt.Sprintf("%.0f%s", x, unit)
		case x < 999.5:
			return three(x, unit)
		}
		x /= 1000
	}
	return ">999" + units[len(units)-1]
}

// seconds writes a duration in at most six columns: a latency, or how long ago something was.
func seconds(s float64) string {
	switch {
	case !(s >= 0):
		return "-"
	case s == 0:
		return "0s"
	case s < 999.5e-6:
		return three(math.Max(s*1e6, 1), "µs")
	case s < 999.5e-3:
		return three(s*1e3, "ms")
	case s < 99.95:
		return three(s, "s")
	}
	return long(s)
}

// long writes a duration from a second up, in its two largest units.
func long(s float64) string {
	if !(s >= 0) {
		return "-"
	}
	switch n := int64(math.Min(math.Round(s), 1e12)); {
	case n < 60:
		return fmt.Sprintf("%ds", n)
	case n < 60*60:
		return units(n, 60, "m", "s")
	case n < 24*60*60:
		return units(n/60, 60, "h", "m")
	case n < 100*24*60*60:
		return units(n/3600, 24, "d", "h")
	case n < 99999*24*60*60:
		return fmt.Sprintf("%dd", n/86400)
	}
	return ">99kd"
}

// units writes n in a larger unit of size small ones, and the rest if there is any.
func units(n, size int64, large, small string) string {
	text := fmt.Sprintf("%d%s", n/size, large)
	if rest := n % size; rest > 0 {
		text += fmt.Sprintf("%d%s", rest, small)
	}
	return text
}

// since is how long before now a time was; "" if it is not known.
func since(now, t time.Time) string {
	if t.IsZero() || now.IsZero() {
		return ""
	}
	return long(max(now.Sub(t).Seconds(), 0))
}

// rate writes a number of things per second.
func rate(x float64) string {
	if x > 0 && x < 0.01 {
		return "<0.01"
	}
	return scaled(x, "", "k", "M", "G", "T")
}

// byteCount writes a number of bytes, which may be per second.
func byteCount(x float64) string { return scaled(x, "B", "kB", "MB", "GB", "TB", "PB", "EB") }

// memory writes a number of bytes as the settings of limits do.
func memory(n uint64) string {
	x := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if x < 1023.5 {
			return fmt.Sprintf("%.0f%s", x, unit)
		}
		x /= 1024
	}
	return fmt.Sprintf("%.1fGiB", x)
}

// count writes a number of things.
func count(n uint64) string {
	if n < 100_000 {
		return fmt.Sprint(n)
	}
	return scaled(float64(n), "", "k", "M", "G", "T", "P", "E")
}

// things writes a number of things by name: 1 connection, 2 connections.
func things(n int, name string) string {
	if n == 1 {
		return "1 " + name
	}
	return fmt.Sprintf("%d %ss", n, name)
}
