package snowflake

import (
	"regexp"
	"strings"
	"testing"
)

func TestAccountsInEveryForm(t *testing.T) {
	for s, want := range map[string]Account{
		"myorg-myaccount":                        {"myorg-myaccount.snowflakecomputing.com", "MYORG-MYACCOUNT"},
		"  MyOrg-MyAccount\n":                    {"myorg-myaccount.snowflakecomputing.com", "MYORG-MYACCOUNT"},
		"MYORG.MYACCOUNT":                        {"myorg-myaccount.snowflakecomputing.com", "MYORG-MYACCOUNT"},
		"myorg.my_account":                       {"myorg-my-account.snowflakecomputing.com", "MYORG-MY_ACCOUNT"},
		"myorg-my_account":                       {"myorg-my-account.snowflakecomputing.com", "MYORG-MY_ACCOUNT"},
		"xy12345":                                {"xy12345.snowflakecomputing.com", "XY12345"},
		"xy12345.us-east-2.aws":                  {"xy12345.us-east-2.aws.snowflakecomputing.com", "XY12345"},
		"xy12345.eu-central-1":                   {"xy12345.eu-central-1.snowflakecomputing.com", "XY12345"},
		"xy12345.west-europe.azure":              {"xy12345.west-europe.azure.snowflakecomputing.com", "XY12345"},
		"xy12345.us-east-2.privatelink":          {"xy12345.us-east-2.privatelink.snowflakecomputing.com", "XY12345"},
		"myorg-myaccount.privatelink":            {"myorg-myaccount.privatelink.snowflakecomputing.com", "MYORG-MYACCOUNT"},
		"xy12345.privatelink":                    {"xy12345.privatelink.snowflakecomputing.com", "XY12345"},
		"xy12345-abcdef.global":                  {"xy12345-abcdef.global.snowflakecomputing.com", "XY12345"},
		"myorg-myaccount.snowflakecomputing.com": {"myorg-myaccount.snowflakecomputing.com", "MYORG-MYACCOUNT"},
		"https://xy12345.eu-central-1.snowflakecomputing.com/console/login": {"xy12345.eu-central-1.snowflakecomputing.com", "XY12345"},
		"https://myorg-my-account.snowflakecomputing.com:443":               {"myorg-my-account.snowflakecomputing.com", "MYORG-MY-ACCOUNT"},
		"https://app.snowflake.com/myorg/my_account/#/homepage":             {"myorg-my-account.snowflakecomputing.com", "MYORG-MY_ACCOUNT"},
		"myorg-myaccount.snowflakecomputing.cn":                             {"myorg-myaccount.snowflakecomputing.cn", "MYORG-MYACCOUNT"},
	} {
		got, err := ParseAccount(s)
		if got != want || err != nil {
			t.Errorf("ParseAccount(%q) = %+v, %v, want %+v", s, got, err, want)
		}
	}
}

func TestWhatIsNoAccount(t *testing.T) {
	for s, want := range map[string]string{
		"":                                "it is not an account identifier",
		"my org":                          "it is not an account identifier",
		"myorg-myaccount/x":               "it is not an account identifier",
		"-myorg":                          "it is not an account identifier",
		"myorg..aws":                      "it is not an account identifier",
		"_":                               "it is not an account identifier",
		"user@myorg-myaccount":            "it is not an account identifier",
		"https://":                        "it is not a URL",
		"app.snowflake.com":               "it is not the URL of an account",
		"https://app.snowflake.com/myorg": "it is not the URL of an account",
		"ab1cd-myorg-myaccount.snowflakecomputing.app":          "it is the host of an endpoint, as in the gateway's URL, and not of an account",
		"https://ab1cd-myorg-myaccount.snowflakecomputing.app/": "it is the host of an endpoint, as in the gateway's URL, and not of an account",
		strings.Repeat("a", 64):                                 "it is not an account identifier",
	} {
		if a, err := ParseAccount(s); err == nil || err.Error() != want || hintOf(err) == "" {
			t.Errorf("ParseAccount(%q) = %+v, %v, want %s with a remedy", s, a, err, want)
		}
	}
}

// What is taken for an account makes a host and a JWT that cannot be anything else, and the host is
// an account again: the same.
func FuzzAccount(f *testing.F) {
	for _, s := range []string{
		"myorg-my_account", "MYORG.MYACCOUNT", "xy12345.us-east-2.aws.privatelink", "xy12345-abc.global",
		"https://app.snowflake.com/o/a/", "https://user:pw@xy12345.snowflakecomputing.com:443/?q", "x.snowflakecomputing.com.snowflakecomputing.com",
	} {
		f.Add(s)
	}
	host := regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.snowflakecomputing\.(com|cn)$`)
	name := regexp.MustCompile(`^[A-Z0-9_]([A-Z0-9_-]*[A-Z0-9_])?$`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAccount(s)
		if err != nil {
			return
		}
		if !host.MatchString(a.Host) || !name.MatchString(a.JWT) {
			t.Fatalf("ParseAccount(%q) = %+v", s, a)
		}
		b, err := ParseAccount(a.Host)
		if err != nil || b.Host != a.Host || b.JWT != strings.ReplaceAll(a.JWT, "_", "-") {
			t.Errorf("ParseAccount(%q) = %+v, and of its host %+v, %v", s, a, b, err)
		}
	})
}
