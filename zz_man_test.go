package main
import ("testing";"os")
func TestZZ(t *testing.T){ os.WriteFile("/tmp/cfgw/set.mdoc", []byte(manSettings()), 0o644)}
