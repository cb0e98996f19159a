"""Names that so many networks bear that the name says nothing: factory defaults, hotspot chains, generic words.

A Python module rather than a text file: policies does no I/O, and one frozen set costs less than parsing at start.
Compared by `plain`; add names in any spelling.
"""

from __future__ import annotations

_NAMES = """
2wire  3com  actiontec  airport  Airport Free WiFi  Aircel  ALHN  Amped Wireless  AndroidAP  AndroidHotspot
Apple Network  ASUS  ASUS_5G  att-wifi  attwifi  AT&T Wi-Fi  Belkin  belkin54g  Belkin.Setup  Boingo Hotspot  Buffalo
BTWiFi  BTWi-fi  BT Openzone  BTWifi-with-FON  BTWiFi-X  Cafe  Cafe WiFi  Cafe Free WiFi  CableWiFi  Canopy  Cisco
Coffee  Coffee Shop  CoxWiFi  Customer  Customers  default  Default SSID  DIRECT  dlink  D-Link  D-Link_DIR-615
Dlink-DIR-600  DSL  EdgeRouter  eduroam  Extender  FON_ZON_FREE_INTERNET  FON  FON_FREE_INTERNET  Free  Free Internet
Free Public WiFi  Free Wi-Fi  FreeWifi_secure  FRITZ!Box  FRITZ!Box Gastzugang  Galaxy  Gast  Gaeste  GL-MT300N
GoogleGuest  Google Starbucks  gogoinflight  Guest  Guests  Guest Network  GuestNet  GuestWLAN  hhonors  HHonors_Public
Hilton Honors  HOME  Home Network  home wifi  HomeNet  Hotel  Hotel Guest  Hotel WiFi  Hotspot  HP-Setup  hpsetup
HUAWEI  Huawei-AP  ibahn  iBAHN  Internet  INFINITUM  iPhone  Jio  JioFi  Linksys  linksys-g  linksys_SES  LinksysSMB
Linksys 5GHz  Livebox  Lobby  Marriott_Guest  Marriott Bonvoy  McDonalds Free WiFi  MERCUSYS  Meraki Setup  MikroTik
MSHOME  MyNetwork  My Wi-Fi  Netgear  NETGEAR-5G  NETGEAR_EXT  NETGEAR_Guest  Netis  network  NoMoreWires  Nokia
Office  Openwrt  optimumwifi  orange  Orange WiFi  Other  PLDTHOMEDSL  private  Proxim  public  Public WiFi  Redmi
Repeater  roger  Rogers  roaming  Router  Samsung  setup  SFR WiFi FON  SFR WiFi Mobile  shawopen  Shaw Open  SITECOM
SKY  SmartThings  SMC  SpectrumWiFi  SpectrumWiFi Plus  Speedport  Starbucks  Starbucks WiFi  STARLINK  Subway  T-Mobile
Telekom  Telekom_FON  Tenda  test  The Cloud  tmobile  tp-link  TP-LINK_5G  TP-LINK_EXT  TPLINK  TWCWiFi  ubnt
Unifi  Unitymedia WifiSpot  USR8054  Verizon  Vodafone Homespot  Vodafone Hotspot  Vodafone WiFi  Wayport_Access
Welcome  WiFi  Wi-Fi  WiFi Extender  wireless  Wireless Network  WLAN  WLAN-AP  WLAN Router  xfinity  xfinitywifi
Xiaomi  XFINITY Mobile  Ziggo  ZyXEL
"""


def plain(ssid: bytes) -> bytes:
    """The name without what people hardly notice: case, spaces, dashes and underscores ("Free_WiFi", "free wi-fi")."""
    return ssid.lower().translate(None, b" -_")


COMMON = frozenset(plain(name.encode()) for line in _NAMES.splitlines() for name in line.split("  ") if name)


def is_common(ssid: bytes) -> bool:
    return plain(ssid) in COMMON
