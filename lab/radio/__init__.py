"""Real Wi-Fi without hardware: a virtual machine with mac80211_hwsim radios, and the tree's own daemon in it."""
