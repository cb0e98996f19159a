"""Names that so many networks bear that the name says nothing: factory defaults, hotspot chains, generic words.

A Python module rather than a text file: policies does no I/O, and one frozen set costs less than parsing at start.
Compared by `plain`; add names in any spelling.
"""

from __future__ import annotations

# The head of WiGLE's statistics of names (wigle.net/stats), as public lists pass it on, without what is one firm's.
_MOST_FREQUENT = """
#NET-CLARO-WIFI  .1.Free Wi-Fi  .@ AIS SUPER WiFi  .@ truemoveH  .@ TRUEWIFI  .FREE_Wi-Fi_PASSPORT  0000docomo
0001_Secured_Wi-Fi  0001docomo  0001softbank  0002softbank  @wifi.id  _AUTO_ONOWiFi  _ONOWiFi  _The Cloud  ACTIONTEC
admin  Airlive  airportthru  AIS SMART Login  alticewifi  AndroidAP  ANY  Apple Network  Apple Store  ASDAFreeWifi
ask4 Wireless  asus  ASUS_5G  ASUS_Guest1  attwifi  au_Wi-Fi  au_Wi-Fi2  Auto-BTWiFi  BATCAVE  belkin  belkin54g
BELTELECOM WIFI  BHN Secure  Boingo Hotspot  Boingo Wireless  Bouygues Telecom Wi-Fi  Bright House Networks  BTFON
BTOpenzone  BTOpenzone-B  BTOpenzone-H  BTWi-fi  BTWiFi-with-FON  BTWifi-X  byfly WIFI  cablewifi  Casa  ChinaNet
CMCC-AUTO  comcast  Connectify-me  ConnectionPoint  Courtyard_Guest  coxwifi  CSL  CSL Auto Connect
Darmowe Orange WiFi  dd-wrt  default  demo  DIR-300NRU  DIR-300NRUB6  DIR-300NRUB7  DIR-320NRU  DIR-615  DIRECT-
dlink  Dom  DOM.RU Wi-Fi  DSL-2640U  DSL_2640NRU  eduroam  Employee  family  FBI  FBI Surveillance  flashzone-seamless
Flow Wi-Fi  Fon WiFi  FON_BELGACOM  FON_FREE_INTERNET  FON_NETIA_FREE_INTERNET  FON_ZON_FREE_INTERNET
Free Public WiFi  freebox  freephonie  FreeWifi  FreeWifi_secure  FRITZ!Box 3390  FRITZ!Box 3490  FRITZ!Box 6320 Cable
FRITZ!Box 6360 Cable  FRITZ!Box 6490 Cable  FRITZ!Box 7272  FRITZ!Box 7312  FRITZ!Box 7330  FRITZ!Box 7330 SL
FRITZ!Box 7362 SL  FRITZ!Box 7412  FRITZ!Box 7490  FRITZ!Box Fon WLAN 7112  FRITZ!Box Fon WLAN 7113
FRITZ!Box Fon WLAN 7170  FRITZ!Box Fon WLAN 7240  FRITZ!Box Fon WLAN 7270  FRITZ!Box Fon WLAN 7320
FRITZ!Box Fon WLAN 7340  FRITZ!Box Fon WLAN 7360  FRITZ!Box Fon WLAN 7390  FRITZ!Box Gastzugang  FRITZ!Box WLAN 3170
FRITZ!Box WLAN 3270  FRITZ!Powerline 540E  Gastzugang  Gateway  getyourownwifi  Guest  Guest Wifi  guestnet  Guests
hhonors  Hilton Honors  HOGWARTS  HOL ZTE 4  HOL_ALU_WLAN  Home  home2  HomeDepot Public Wi-Fi  HomeNet  HomeSweetHome
Horizon Wi-Free  Horizon WifiSpots  hpsetup  HTC Portable Hotspot  huawei  HUAWEI P10  HUAWEI P10 lite
HUAWEI P20 lite  IBIS  IHG Connect  InfostradaWiFi  internet  iot  IPAD  iPhone  iptime  it hurts when IP
KD WLAN Hotspot+  KPN  KPN Fon  laQuinta  LDSAccess  linksys  Living Room  logitecgameuser  logitecuser
Lowes-Guest-WiFi  m3connect  Macysfreewifi  maison  Marriott_Guest  Matrix  McDonalds Free WiFi  MelitaWiFi  MEO-WIFI
MikroTik  mobile  MobileConnect  Moscow_WiFi_FREE  Motel 6  Motorola  MT_free  My ASUS  My Network  MYChevrolet  myGMC
MyHome  MyPlace  net  Netcomm Wireless  NETGEAR  NETGEAR-2.4-G  NETGEAR-5G  NETGEAR-5G-GUEST  netgear-guest  NETGEAR1
NETGEAR_EXT  NETGEAR_Guest1  no ssid  NOS_WIFI_Fon  NTT-SPOT  O2 WIFI  office  ollehWiFi  onlime  optimumwifi
optimumwifi_Passpoint  orange  Orange FunSpot  OTE WiFi Fon  OutOfService  planexuser  PLDTHOMEDSL  plusnetwireless
portthru  pretty fly for a wifi  Private  Proximus Public Wi-Fi  Proximus Smart Wi-Fi  PROXIMUS_AUTO_FON  PROXIMUS_FON
public  PYUR Community  RedMi  Renaissance_GUEST  router  samsung  setup  SFR WiFi FON  SFR WiFi Mobile
SFR WiFi Public  ShawMobileHotspot  ShawOpen  ShawPasspoint  Sitecom  SKODA_WLAN  skynet  SMC  SpectrumWiFi
SpectrumWiFi PluS  Speedy Instan@wifi.id  Sprint Drive  staff  sweethome  swisscom  SWS1day  Target Guest Wi-Fi  TELE2
Tele2-modem  telecentro WIFI  Telekom  Telekom Fon WiFi HU  Telekom_FON  TELENETHOMESPOT  TelenetWiFree  Telstra AIR
test  thuis  Tp-link  TP-LINK Extender 5GHz  TWCWiFi  TWCWiFi-Passpoint  U+zone  Unifi  Unitymedia WifiSpot
UPC Wi-Free  UPC WifiSpots  USR8054  Virgin media  virus  VIVACOM_NET  Vodafone Homespot  Vodafone Hotspot
vodafone-WiFi  Voice  VOIP  VOO_HOMESPOT  VW WLAN  walmartwifi  Wayport_Access  WebSTAR  Wi2premium  Wi2premium_club
wifi  wifi extra  WIFI-Guest  WiFi-Repeater  wifi.tattele.com  WiFi_OBDii  wireless  Wireless@SG  Wireless@SGx
WirelessLocal  WirelessNet  WLAN  wlan-ap  WOW FI - FASTWEB  WWM_P2P  xerox  XFINITY  xfinitywifi  Ziggo  ZyXEL
"""

# Hotspots of operators: what applications that sign in to them look for (Fon, The Cloud, Gowex, FREESPOT), and shops,
# trains, hotels and banks of the United Kingdom (github.com/xannythepleb/UK-Public-WiFi-SSID-List).
_HOTSPOTS = """
#StarbucksWifi  @MWEB Fon  _Costa-Guest  _HalifaxWifi  _Heathrow Wi-Fi  _LloydsWifi  _Nando's Free Wi-Fi
_PizzaExpressWiFi  _ScotRailFreeWiFi  _stanstedairport WiFi  _Waterstones WiFi  _WiFi_Here  Airport FREE Wi-Fi
ALDI WiFi  arriva-wifi  BALoungeWiFi  BarclaysFreeWiFi  BELLWIFI@MCDONALDS  Bestbuy  Boots free WiFi  BT_Guest_Wi-Fi
BTOpenzone-Starbucks  BTWifi-Starbucks  BYOD  Conference  Corporate  Costa Free WiFi  CrossCountryWiFi  Customer-wifi
DrayTek  Edimax  EE WiFi  EE WiFi-Auto  eircom  Eurostar_IS  first-wifi  Fon Free WiFi  Fon WiFi (free)  Fon WiFi 5G
Fon WiFi 5GHz  FON_livedoor  Free Gatwick Wi-Fi  Free KFC Internet  Free Museum Wi-Fi  Free Pub WiFi  free-bus-wifi
free-hotspot.com  FREESPOT  GlobalSuiteWireless  govroam  GOWEXWiFi  Guest Access  GWR WiFi  H&M Free WiFi
HolidayInn  HotSpot Fon  HUAWEI-AP  iBAHN  IKEA WiFi  JT Fon  KFC Free WiFi  Library_WiFi  LinksysSMB5G  LNER-WIFI
M&S Free WiFi  McDonald's Free WiFi  megabus-wifi  Mercure  MercureWiFi  Mycloud  nationalexpress-wifi  NHS Wi-Fi
Nintendo_3DS_continuous_scan_000  NOC_SOFTBANK  Novotel  O2 Wifi 2.4Ghz  Oi WiFi Fon  ParkInn_Guest  PLUSNET
Premier Inn Free Wi-Fi  Premier Inn Ultimate Wi-Fi  PT-WIFI  Public WiFi  Radisson_Guest  roamnet  Romtelecom Fon
Sainsbury's WiFi  Santander Wi-Fi  Southeastern_WiFi  Southern_WiFi  stagecoach-wifi  STARBUCKS-FREE-WIFI
Student-WiFi  Students  Swisscom_Auto_Login  Telefonica  Tesco Wifi  Thameslink_WiFi  Three WiFi Public
Travelodge WiFi  tsunami  TSUTAYA  TTNET WiFi FON  VIP  Virgin Media WiFi  Virgin WiFi  virgintrainsfreewifi  Visitor
Visitors  Vodafone  Waitrose-BTWifi  WeWorkGuest  WiFi Zone - The Cloud  WiFiSPARK  WifiZone  Wireless_Guest
WLAN Zone - The Cloud  wpa2psk  ZTE
"""

# What travels: airlines' cabins, and telephones as Mozilla's stumbler knew them.
_TRAVELLING = """
AA-Inflight  ACWiFi  ANA-WiFi-Service  AndroidHotspot  BA WiFi  barnacle  DeltaWiFi.com  Fly-Fi  FlyNet  Galaxy Note
Galaxy Tab  gogoinflight  KLM WiFi  KrisWorld  MiFi  myLGNet  myTouch 4G Hotspot  Norwegian Internet  OnAir  PhoneAP
SAS WiFi  SouthwestWiFi  Sprint MiFi  United_Wi-Fi
"""

# Factory defaults and generic words that other products' lists have.
_DEFAULTS = """
2wire  3com  Aircel  airport  ALHN  Amped Wireless  AT&T Wi-Fi  Belkin.Setup  Buffalo  Cafe  Cafe Free WiFi  Cafe WiFi
Canopy  Cisco  Coffee  Coffee Shop  Customer  Customers  D-Link_DIR-615  Default SSID  Dlink-DIR-600  DSL  EdgeRouter
Extender  FON  Free  Free Internet  FRITZ!Box  Gaeste  Galaxy  Gast  GL-MT300N  Google Starbucks  GoogleGuest
Guest Network  GuestWLAN  HHonors_Public  Home Network  home wifi  Hotel  Hotel Guest  Hotel WiFi  Hotspot  INFINITUM
Jio  JioFi  Linksys 5GHz  linksys-g  linksys_SES  LinksysSMB  Livebox  Lobby  Marriott Bonvoy  Meraki Setup  MERCUSYS
MSHOME  My Wi-Fi  Netis  network  Nokia  NoMoreWires  Openwrt  Orange WiFi  Other  Proxim  Repeater  roaming  roger
Rogers  SKY  SmartThings  Speedport  Starbucks  Starbucks WiFi  STARLINK  Subway  T-Mobile  Tenda  TP-LINK_5G
TP-LINK_EXT  ubnt  Verizon  Welcome  WiFi Extender  Wireless Network  WLAN Router  XFINITY Mobile  Xiaomi
"""


def plain(ssid: bytes) -> bytes:
    """The name without what people hardly notice: case, spaces, dashes and underscores ("Free_WiFi", "free wi-fi")."""
    return ssid.lower().translate(None, b" -_")


_NETGEAR = tuple(f"NETGEAR{number:02}" for number in range(100))  # the factory's scheme: WiGLE's head has most of them
COMMON = frozenset(
    plain(name.encode())
    for text in (_MOST_FREQUENT, _HOTSPOTS, _TRAVELLING, _DEFAULTS, "  ".join(_NETGEAR))
    for line in text.splitlines()
    for name in line.split("  ")
    if name
)


def is_common(ssid: bytes) -> bool:
    return plain(ssid) in COMMON
