package printable

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestWhatIsNotVisibleIsWrittenOut(t *testing.T) {
	for _, test := range []struct{ what, s, want string }{
		{"plain", "broker 2 at kafka-2:9092", "broker 2 at kafka-2:9092"},
		{"other scripts", "größer, 東京, عربى, 😀", "größer, 東京, عربى, 😀"},
		{"a title", "\x1b]0;owned\a", `\x1b]0;owned\x07`},
		{"a cleared screen", "\x1b[2J", `\x1b[2J`},
		{"C1, which some terminals obey", "\u009b2J", `\u009b2J`},
		{"C1 as a byte", "\x9b2J", `\x9b2J`},
		{"delete", "a\x7fb", `a\x7fb`},
		{"nul", "a\x00b", `a\x00b`},
		{"lines", "a\r\n\tb", `a\r\n\tb`},
		{"separators", "a\u2028b\u2029c\u0085d", `a\u2028b\u2029c\u0085d`},
		{"direction", "exe\u202egpj\u2066x\u200f", `exe\u202egpj\u2066x\u200f`},
		{"nothing to see", "a\u200bb\ufeffc\u00add\u2060e", `a\u200bb\ufeffc\u00add\u2060e`},
		{"fillers and selectors", "\u3164\u115f\ufe0f\U000e0101", `\u3164\u115f\ufe0f\U000e0101`},
		{"tags", "\U000e0041", `\U000e0041`},
		{"another space", "a\u00a0b\u3000c", `a\u00a0b\u3000c`},
		{"private and not assigned", "\ue000\U0010ffff", `\ue000\U0010ffff`},
		{"no UTF-8", "a\xff\xc3(\xed\xa0\x80", `a\xff\xc3(\xed\xa0\x80`},
		{"a replacement that was sent", "\ufffd", "\ufffd"},
	} {
		if got := Text(test.s, Record); got != test.want {
			t.Errorf("%s: Text(%q) = %q, want %q", test.what, test.s, got, test.want)
		}
	}
}

func TestTheLengthIsBounded(t *testing.T) {
	for _, test := range []struct {
		s    string
		most int
		want string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc…"},
		{"äöüß", 8, "äöüß"},
		{"äöüßa", 8, "äö…"},
		{"ab\x1b", 5, "ab…"},
		{"abc\n", 4, "a…"},
		{strings.Repeat("x", 1<<20), Name, strings.Repeat("x", Name-3) + "…"},
	} {
		if got := Text(test.s, test.most); got != test.want {
			t.Errorf("Text(%.20q, %d) = %q, want %q", test.s, test.most, got, test.want)
		}
	}
	huge := strings.Repeat("\x1b\u202e", 1<<20)
	if n := testing.AllocsPerRun(1, func() { Text(huge, Name) }); n > 300 {
		t.Errorf("%v allocations for %d bytes of which %d are shown", n, len(huge), Name)
	}
}

// Whatever comes in, what goes out has the same properties.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b]0;x\a\x1b[2J", "\u202e\u009b\x9b\x00\xff", "…", "\\x1b", "\ufffd", strings.Repeat("ä", 200)} {
		f.Add(s, 64)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = 8 + (most&0x7fffffff)%1000
		got := Text(s, most)
		if len(got) > most || !utf8.ValidString(got) {
			t.Errorf("Text(%q, %d) = %q, %d bytes", s, most, got, len(got))
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) {
				t.Errorf("Text(%q, %d) = %q, with %U", s, most, got, r)
			}
		}
		if again := Text(got, most); again != got {
			t.Errorf("Text of %q is %q", got, again)
		}
		if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0 && len(s) <= most && got != s {
			t.Errorf("Text(%q, %d) = %q: it was fit to print", s, most, got)
		}
	})
}

func BenchmarkTextOfPlainASCII(b *testing.B) {
	s := strings.Repeat("dial broker 2 at kafka-2.internal:9093: ", 4)
	b.ReportAllocs()
	for b.Loop() {
		Text(s, Record)
	}
}
